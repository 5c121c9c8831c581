"""One class for every image: readers, the views that teacher and student see, mixup, cached teacher outputs."""
