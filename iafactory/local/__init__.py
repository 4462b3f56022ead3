"""The product on a bare machine: its own PostgreSQL and Redis, what `make run` does, the tests' servers."""
