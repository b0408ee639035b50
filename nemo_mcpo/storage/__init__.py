# SPDX-License-Identifier: Apache-2.0
"""Storage: files and directories that are whole after a kill at any moment, and that no other recipe continues."""
