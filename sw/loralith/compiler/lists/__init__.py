"""Command lists: the list itself, its text (`assembly`), and lists that are compiled once and run anywhere (`relocatable`)."""
