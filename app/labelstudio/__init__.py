"""Label Studio: what its labelling configs and tasks mean here, and predictions as it takes them."""
