# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that decides: request, sources, geometry, identities -> plan."""
