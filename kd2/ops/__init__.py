"""Fast forms behind the losses; each is tested against the formula in ``kd2.losses``."""
