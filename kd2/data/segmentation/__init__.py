"""A class for every pixel: label files, public folder layouts and folders of your own, as checked records."""
