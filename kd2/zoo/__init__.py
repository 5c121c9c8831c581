"""Published models: what their names stand for, and their weights under the names that the roads of kd2 use."""
