"""How answers are said: one module per client dialect, each turning the normal form (OpenAI's chat) into its own bytes."""
