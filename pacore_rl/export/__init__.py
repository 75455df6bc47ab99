"""A run's weights as a Hugging Face folder that others can serve, with a card that says where they come from."""
