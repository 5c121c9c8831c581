"""A run apart from its training: the files it leaves, its folder, how it goes on and how it ends. No framework."""
