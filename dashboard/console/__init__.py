"""The operator's console: Django's admin with a home of its own and one page that tells everything about an account."""
