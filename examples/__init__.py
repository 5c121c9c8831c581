"""Short readable scripts over kd2's public interface; they work in a checkout only."""
