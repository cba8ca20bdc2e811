# Doxygen's input filter: comments of the headers as Doxygen expects them, so that the headers can
# stay plain.

# What is written into columns stays so: Doxygen's code blocks have four blanks more, behind an empty line.
function columns(line, lead) {
  if (match(line, /^ *(\/\/\/| \*)   +[^ ]/)) {
    lead = index(line, "*") ? " *" : "///"
    sub(/^ *(\/\/\/| \*)/, "&    ", line)
    if (!in_columns) line = lead "\n" line
    in_columns = 1
  } else {
    in_columns = 0
  }
  return line
}

# The C headers have plain comments.
FILENAME ~ /\.h$/ {
  if (/^ *\/\*/) sub(/\/\*/, FNR == 1 ? "/** @file\n *" : "/**")
  else sub(/\/\* /, "/**< ")
  print columns($0)
  next
}

# A comment before `namespace archon` is about the header; Doxygen would take it for one about the
# namespace, and run those of all headers together.
/^\/\/\// { comment = comment columns($0) "\n"; next }
/^namespace archon/ && comment { print "/// @file" }
{ printf "%s", comment; comment = ""; print columns($0) }
END { printf "%s", comment }
