"""What takes an operator several pages: connecting a provider, publishing a plan, changing a price."""
