"""Safety directions: what they are, how they are found, checked, stored. Pure mathematics but for the recipes."""
