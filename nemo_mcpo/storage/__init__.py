# SPDX-License-Identifier: Apache-2.0
"""Storage: files and directories that a kill at any moment leaves whole, and that only the same recipe continues."""
