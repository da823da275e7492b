"""People and cars from meshes, rendered once to small pictures."""
