"""The only room that names a framework: one folder a framework, and what they share in files of this level."""
