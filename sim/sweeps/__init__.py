"""Sweeps: from a file of axes to points, from points to rows, on as many processes as there are, and questions to the
rows.

A sweep asks the rest of the package what each point comes to; it refuses to know how that is found."""
