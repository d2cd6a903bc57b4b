"""What a layout costs in FLOPs, in closed form, and the price list."""
