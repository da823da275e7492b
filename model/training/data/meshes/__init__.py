"""People and cars made from meshes, and the pictures of them (figures) that scenes show."""
