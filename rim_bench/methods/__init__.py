"""What a method is: a tree of token segments and a curriculum. No torch but for annotations."""
