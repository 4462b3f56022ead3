"""How well each route is: what calls and checks saw of it, shared by all processes through Redis, read without I/O."""
