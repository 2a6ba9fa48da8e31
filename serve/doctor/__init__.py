"""`r1-serve doctor`: what it looks at (`facts` and what that asks), what it finds wrong (`machine`,
`memory`, `setup`), and the command."""
