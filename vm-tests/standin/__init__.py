# SPDX-License-Identifier: GPL-3.0-or-later
"""Free stand-ins for the Windows boot programs, built when a test asks for them."""
