# SPDX-License-Identifier: Apache-2.0
"""What a step costs and why: programs that measure the engine against plain DPO, TRL, and the model of its work."""
