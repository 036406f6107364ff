echo "hello from a named script"
