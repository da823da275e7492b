"""Who moves in a scene, drawn from shapes: people, riders, vehicles, animals and blobs."""
