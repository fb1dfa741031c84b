# SPDX-License-Identifier: GPL-3.0-or-later
"""The binding to libwim, through cffi: the only place where foreign code is called.

The floor knows errors and units only. ``Any`` stays in here: what is handed out is typed.
"""
