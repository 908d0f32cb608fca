# SPDX-License-Identifier: GPL-2.0-or-later
# embed.py OUT BASE FILE...: the files as C, so that the program needs nothing beside itself.
import os
import sys

out, base, files = sys.argv[1], sys.argv[2], sys.argv[3:]
with open(out, "w") as c:
    c.write('#include "image/build.h"\n\n#include <string.h>\n\n')
    for i, name in enumerate(files):
        with open(name, "rb") as f:
            data = f.read()
        c.write("static const char file_%d[] = {" % i)
        for at in range(0, len(data), 20):
            c.write("\n\t" + " ".join("%d," % b for b in data[at:at + 20]))
        c.write("\n\t0\n};\n\n")
    c.write("const struct embedded_file embedded_files[] = {\n")
    for i, name in enumerate(files):
        mode = "true" if os.access(name, os.X_OK) else "false"
        c.write('\t{ "%s", file_%d, sizeof(file_%d) - 1, %s },\n' % (os.path.relpath(name, base), i, i, mode))
    c.write("};\nconst size_t embedded_file_count = sizeof(embedded_files) / sizeof(embedded_files[0]);\n\n")
    c.write("const struct embedded_file *embedded_find(const char *name)\n{\n"
            "\tfor (size_t i = 0; i < embedded_file_count; i++)\n"
            "\t\tif (strcmp(embedded_files[i].name, name) == 0)\n"
            "\t\t\treturn &embedded_files[i];\n\treturn NULL;\n}\n")
