"""The host's side of the serial link: port, frames, and requests that are sent until they are answered. docs/link.md specifies it."""
