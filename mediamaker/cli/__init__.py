# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person types; the only code that prints or exits."""
