"""The report: one static, offline HTML file about what the data stage did; and the dataset card."""
