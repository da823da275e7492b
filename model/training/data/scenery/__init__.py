"""What stands still in a scene: the street, clutter and photographs behind the actors."""
