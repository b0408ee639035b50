# SPDX-License-Identifier: Apache-2.0
"""What depends on the machine; the only room that knows whether there is a GPU."""
