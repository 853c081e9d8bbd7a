"""Data sets as users have them: files of preference pairs in, rows for trainers out. Knows neither queue nor HTTP."""
