"""Transfers: networks as data, what a collective moves over them, and how those in flight share links."""
