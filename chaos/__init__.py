"""`make chaos`: the real product under load while its processes are killed; afterwards no credit may be lost or invented."""
