"""How Django writes dates, in each language as the panel does (`iafactory/common/formats.py`)."""
