"""Tables of made-up scores whose truth is known: how often what a table says of them is wrong."""
