"""Save reduced models into folders and to the Hugging Face hub: weights, model description and reduction."""
