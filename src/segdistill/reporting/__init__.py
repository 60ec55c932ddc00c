"""What a person looks at: pictures of label maps, and pages that hold them."""
