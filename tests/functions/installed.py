"""What an installed package would bring."""

from dataclasses import replace

from functions.disk.free_space import REMEDY

REFILL = replace(REMEDY, name="shop.refill")
NO_REMEDY = "something else"
