# SPDX-License-Identifier: Apache-2.0
"""What a step costs and why: measurements against plain DPO, TRL, and a model of the work."""
