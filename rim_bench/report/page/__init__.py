"""One file to look at stored runs with: what it shows as records, and the page that shows it."""
