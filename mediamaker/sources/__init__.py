# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-only views of the user's inputs, answering in byte ranges."""
