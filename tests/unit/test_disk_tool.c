// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * `bulkhead disk` as scripts use it, and what it serves as other people's NBD clients use it. Each test is
 * a shell script in an empty directory; $B is the program.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/tool-XXXXXX";

/* Waits for the server's word that it serves; a script that ends early does not leave it behind. */
#define SERVE                                                                          \
	"serve() { rm -f said; mkfifo said; $B disk serve \"$@\" --json >said & server=$!;" \
	"  grep -q uri <said; }\n"                                                     \
	"stop() { kill $server; wait $server; }\n"                                     \
	"trap 'test -z \"$server\" || kill $server 2>/dev/null || :' EXIT\n"           \
	"U='nbd+unix:///?socket=s'\n"

static int enter(void **state)
{
	return getenv("BULKHEAD") && mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int leave(void **state)
{
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

static void run_script(const char *script)
{
	FILE *f = fopen("script", "w");
	int status;

	fprintf(f, "B=$BULKHEAD\nfails() { want=$1; shift; got=0; \"$@\" || got=$?; test $got = $want; }\n%s", script);
	fclose(f);
	status = system("timeout 100 sh -exu script >out 2>&1 </dev/null");
	if (status != 0)
		(void)!system("tail -40 out >&2");
	(void)!system("rm -rf ./*");
	if (status != 0)
		fail_msg("the script ended with status %#x", (unsigned)status);
}

static bool have(const char *programs)
{
	char command[200];

	snprintf(command, sizeof(command), "for p in %s; do command -v $p || exit 1; done >/dev/null", programs);
	return system(command) == 0;
}

static void verbs(void **state)
{
	run_script("for v in $($B disk --help | sed -n 's/^  \\([a-z]*\\) .*/\\1/p'); do\n"
		   "  $B disk $v --help | grep -q \"^Usage: bulkhead disk $v \"\n"
		   "  fails 2 $B disk $v --no-such-option\n"
		   "done\n"
		   "fails 2 $B disk; fails 2 $B disk nonsense; fails 2 $B disk create x\n"
		   "$B disk create a.vhdx 64M --block-size 1M\n"
		   "fails 1 $B disk create a.vhdx 1M\n"
		   "$B disk create --json a.vhdx 65M --replace | grep -q '\"size\": 68157440'\n"
		   "$B disk info a.vhdx | grep -q 'VHDX, dynamic\\|vhdx, dynamic'\n"
		   "$B disk info a.vhdx --json | grep -q '\"block_size\": 2097152'\n"
		   "$B disk check a.vhdx; $B disk check a.vhdx --json | grep -q '\"findings\": \\[\\]'\n"
		   "fails 1 $B disk info missing --json >json; grep -q '\"code\": \"ENOENT\"' json\n"
		   "printf x | dd of=a.vhdx bs=1 seek=196608 conv=notrunc\n"
		   "fails 1 $B disk check a.vhdx --json >json; grep -q 'region table at offset 0x30000' json\n"
		   "grep -q '\"code\": \"EBADMSG\"' json\n"
		   "fails 2 $B disk check a.vhdx --force\n"
		   "$B disk check a.vhdx --repair | grep -q 'kept in a.vhdx.undo-1'; $B disk check a.vhdx\n"
		   "$B disk check a.vhdx --undo a.vhdx.undo-1; fails 1 $B disk check a.vhdx\n"
		   "$B disk check a.vhdx --repair --json | grep -q 'becomes a copy'\n");
}

static void map_and_bench(void **state)
{
	run_script("truncate -s 8M a.raw; printf data | dd of=a.raw bs=1 seek=4194304 conv=notrunc\n"
		   "$B disk convert a.raw a.vhdx; $B disk map a.vhdx; $B disk map a.vhdx --json >json\n"
		   "grep -q '\"data\": 4096' json || grep -q '\"data\": 65536' json\n"
		   "$B disk bench a.vhdx --seconds 1 --depth 4\n"
		   "$B disk bench a.vhdx --seconds 1 --sequential --block 64K --json | grep -q '\"iops\": [1-9]'\n"
		   "$B disk convert a.vhdx b.raw --raw; cmp a.raw b.raw\n"
		   "fails 2 $B disk bench a.vhdx --block 1000\n"
		   "$B disk bench a.vhdx --overwrite --seconds 1; $B disk check a.vhdx\n"
		   "for o in '--step 1052672' '--flush-every 3' --discard '--depth 90' '--depth 1 --sequential --direct'; do\n"
		   "  $B disk bench a.vhdx $o --overwrite --requests 77 --json >json; grep -q '\"requests\": 77,' json\n"
		   "  grep -q '\"processor_microseconds\": [0-9]' json; $B disk check a.vhdx\n"
		   "done\n"
		   "fails 2 $B disk bench a.vhdx --step 100; fails 2 $B disk bench a.vhdx --requests 0\n"
		   "fails 1 cmp a.raw a.vhdx\n");
}

static void resize(void **state)
{
	run_script("truncate -s 8M a.raw; printf data | dd of=a.raw bs=1 seek=6291456 conv=notrunc\n"
		   "$B disk convert a.raw a.vhdx; $B disk resize a.vhdx 300G\n"
		   "$B disk info a.vhdx --json | grep -q '\"size\": 322122547200'\n"
		   "$B disk resize a.vhdx 7M --json | grep -q '\"size\": 7340032'\n"
		   "fails 1 $B disk resize a.vhdx 6M --json >json; grep -q '\"code\": \"EEXIST\"' json\n"
		   "grep -q 'first at offset 6291456' json; fails 2 $B disk resize a.vhdx\n"
		   "$B disk resize a.vhdx 6M --force; $B disk resize a.vhdx 8M; $B disk check a.vhdx\n"
		   "$B disk convert a.vhdx b.raw --raw; truncate -s 8M c.raw; cmp b.raw c.raw\n"
		   "$B disk resize a.raw 9M; test $(stat -c %s a.raw) = 9437184\n"
		   "$B disk convert a.raw a.vhd; $B disk resize a.vhd 20M; $B disk check a.vhd\n"
		   "$B disk resize a.vhd 9M; $B disk compact a.vhd; $B disk check a.vhd\n"
		   "$B disk convert a.vhd e.raw; cmp e.raw a.raw\n"
		   "$B disk create b.vhd 8M --fixed; fails 1 $B disk resize b.vhd 9M --json >json; grep -q 'a fixed VHD' json\n");
}

static void compact(void **state)
{
	run_script("head -c 40M /dev/urandom >a.raw; $B disk convert a.raw a.vhdx --block-size 1M\n"
		   "fallocate -p -o 10M -l 15M a.vhdx || exit 0; $B disk convert a.vhdx b.raw --raw\n"
		   "dd if=/dev/zero of=a.vhdx bs=1M seek=30 count=3 conv=notrunc\n"
		   "$B disk compact a.vhdx --quick | grep -q 'on the host, before'\n"
		   "test $(stat -c %s a.vhdx) = $((29 << 20)); $B disk check a.vhdx\n"
		   "$B disk compact a.vhdx --json | grep -q '\"after\": [1-9]'; test $(stat -c %s a.vhdx) = $((26 << 20))\n"
		   "$B disk check a.vhdx; $B disk convert a.vhdx c.raw --raw; $B disk compact a.vhdx\n"
		   "$B disk convert a.vhdx d.raw --raw; cmp c.raw d.raw; fails 1 cmp b.raw c.raw\n"
		   "fails 1 $B disk compact a.raw; fails 2 $B disk compact\n");
}

/* The signal may also come before the program catches it: the status and what is left are the same. */
static void interrupted(void **state)
{
	run_script("$B disk create big.vhdx 64T; echo old >out.vhdx\n"
		   "$B disk convert big.vhdx out.vhdx --replace --block-size 256M & p=$!\n"
		   "until ls -l /proc/$p/fd | grep -q big.vhdx; do kill -0 $p; done\n"
		   "kill -TERM $p; fails 143 wait $p\n"
		   "test \"$(cat out.vhdx)\" = old; test $(ls | wc -l) = 4\n"
		   "$B disk check big.vhdx\n");
}

static void foreign(void **state)
{
	if (!have("qemu-img qemu-nbd"))
		skip();
	run_script("truncate -s 50M a.raw; head -c 3M /dev/urandom | dd of=a.raw bs=1M seek=20 conv=notrunc\n"
		   "for f in qcow2 vmdk vdi; do\n"
		   "  qemu-img convert -O $f a.raw a.$f; $B disk convert a.$f b.vhdx --replace --json\n"
		   "  qemu-img compare -f raw -F vhdx a.raw b.vhdx\n"
		   "  PATH=/nonexistent fails 1 $B disk convert a.$f c.vhdx 2>why\n"
		   "  grep -q 'qemu-nbd, which is not installed' why\n"
		   "done\n"
		   "test $(stat -c %b b.vhdx) -lt 16384\n"
		   "printf 'QFI\\373' >bad; fails 1 $B disk convert bad c.vhdx; test ! -e c.vhdx\n"
		   "qemu-img convert -O vmdk a.raw a.vmdk; fails 1 $B disk info a.vmdk\n"
		   "$B disk convert --from raw a.vmdk as-raw.vhdx; $B disk convert as-raw.vhdx back --raw; cmp back a.vmdk\n");
}

static void need_clients(void)
{
#ifdef SANITIZED
	skip(); /* nbdkit is not built with the sanitizer that the plug-in needs */
#endif
	if (!have("nbdkit nbdinfo nbdcopy qemu-img qemu-io"))
		skip();
}

static void served(void **state)
{
	need_clients();
	run_script(SERVE
	    "$B disk create a.vhdx 70M --block-size 1M\n"
	    "truncate -s 70M model; head -c 9M /dev/urandom | dd of=model bs=1M seek=33 conv=notrunc\n"
	    "serve a.vhdx --socket s\n"
	    "nbdinfo --size $U | grep -q '^73400320$'; nbdinfo $U >info; grep -q 'can_fua: true' info\n"
	    "grep -q 'can_trim: true' info; grep -q 'block_size_minimum: 512' info\n"
	    "nbdinfo --map $U | grep -q '73400320 *3 *hole,zero'\n"
	    "fails 1 $B disk info a.vhdx\n" /* it is open */
	    "nbdcopy --destination-is-zero --connections=4 model $U\n"
	    "nbdcopy $U back; cmp model back\n"
	    "nbdinfo --map $U >map; grep -q '34603008 *9437184 *0 *data' map\n"
	    "stop; test ! -e s\n"
	    "$B disk check a.vhdx; qemu-img check -f vhdx a.vhdx; qemu-img compare -f raw -F vhdx model a.vhdx\n"
	    "serve a.vhdx --socket s\n"
	    "qemu-img convert -f raw -O raw $U back; cmp model back\n"
	    "qemu-img convert -n -f raw -O raw $U nbd:unix:s\n" /* onto itself, by two connections */
	    "qemu-io -f raw -c 'write -P 7 -f 1M 1M' -c 'write -z -u 35M 1M' -c 'discard 38M 1M' -c flush $U\n"
	    "for f in model; do qemu-io -f raw -c 'write -P 7 1M 1M' -c 'write -z 35M 1M' -c 'write -z 38M 1M' $f; done\n"
	    "nbdcopy $U back; cmp model back; fails 1 qemu-io -f raw -c 'write -P 1 70M 512' $U\n"
	    "stop; $B disk check a.vhdx; qemu-img compare -f raw -F vhdx model a.vhdx\n");
}

static void served_for_reading(void **state)
{
	need_clients();
	run_script(SERVE
	    "head -c 5M /dev/urandom >model; $B disk convert model a.vhdx; sha256sum a.vhdx >sum\n"
	    "serve a.vhdx --socket s --read-only; first=$server\n"
	    "$B disk info a.vhdx; mkfifo other\n"
	    "$B disk serve a.vhdx --socket t --read-only --json >other & second=$!; grep -q uri <other\n"
	    "nbdcopy 'nbd+unix:///?socket=t' back; cmp model back; kill $second; wait $second\n"
	    "nbdinfo $U | grep -q 'is_read_only: true'; fails 1 qemu-io -f raw -c 'write 0 512' $U\n"
	    "fails 1 $B disk serve a.vhdx --socket s 2>why; grep -q 'something is there already' why\n"
	    "test -e s; nbdcopy $U back; cmp model back\n"
	    "stop; sha256sum -c sum\n"
	    "fails 1 $B disk serve missing --socket s; test ! -e s\n"
	    "printf 'conectix' >bad; fails 1 $B disk serve bad --socket s; test ! -e s\n");
}

/* What a client was told to be durable is there, however the server ends. */
static void server_killed(void **state)
{
	need_clients();
	run_script(SERVE
	    "$B disk create a.vhdx 64M --block-size 1M\n"
	    "for i in 1 2 3; do\n"
	    "  serve a.vhdx --socket s\n"
	    "  qemu-io -f raw -t none -c \"write -P $i -f ${i}M 3M\" -c \"write -P 9 40M 1M\" $U\n"
	    "  kill -9 $(ps -o pid= --ppid $server); fails 1 wait $server; test ! -e s\n"
	    "  $B disk check a.vhdx; serve a.vhdx --socket s; qemu-io -f raw -c \"read -P $i ${i}M 3M\" $U; stop\n"
	    "done\n"
	    "serve a.vhdx --socket s; child=$(ps -o pid= --ppid $server); kill -9 $server; fails 137 wait $server\n"
	    "while kill -0 $child; do :; done; rm s; $B disk check a.vhdx; server=\n");
}

/* A backup of what has changed, which other programs have written through the server. */
static void tracked(void **state)
{
	need_clients();
	run_script(SERVE
	    "for kind in vhdx raw; do\n"
	    "  a=a.$kind; truncate -s 64M start; head -c 9M /dev/urandom | dd of=start bs=1M seek=20 conv=notrunc\n"
	    "  $B disk convert start $a; $B disk track add $a full\n"
	    "  fails 1 $B disk track add $a full; fails 2 $B disk track; fails 2 $B disk track changes $a\n"
	    "  serve $a --socket s; qemu-io -f raw -c 'write -P 5 24M 100k' -c 'discard 40M 64k' -c 'write 63M 1M' $U; stop\n"
	    "  $B disk track changes $a full >runs; cat runs\n"
	    "  $B disk track changes $a full --json >json; grep -q '\"offset\": 25165824' json; grep -q '\"length\": 131072' json\n"
	    "  $B disk track list $a --json >json; grep -q '\"name\": \"full\"' json; grep -q '\"changed\": 1245184' json\n"
	    "  $B disk convert $a now.raw --raw; fails 1 cmp start now.raw\n"
	    "  while read offset length; do\n"
	    "    dd if=now.raw of=start bs=64k skip=$((offset / 65536)) seek=$((offset / 65536)) count=$((length / 65536)) conv=notrunc\n"
	    "  done <runs\n"
	    "  cmp start now.raw\n"
	    "  qemu-io -f $kind -c 'write 0 512' $a; $B disk track list $a --json | grep -q '\"changed\": 67108864'\n"
	    "  $B disk track remove $a full; test ! -e $a.cbt; fails 1 $B disk track changes $a full; rm now.raw\n"
	    "done\n");
}

/* Many small operations in a random order, the same to a plain file. */
static void random_operations(void **state)
{
	need_clients();
	run_script(SERVE
	    "for options in '--block-size 1M' '--block-size 1M --sector-size 4096' '--raw'; do\n"
	    "  rm -f a model; $B disk create a 24M $options; truncate -s 24M model\n"
	    "  awk 'BEGIN { srand(3); for (i = 0; i < 400; i++) { o = int(rand() * 6000); l = 1 + int(rand() * 90); r = rand();\n"
	    "    c = r < .6 ? \"write -P \" int(rand() * 255) : r < .8 ? \"write -z\" : r < .9 ? \"write -z -u\" : \"write -f -P 3\"\n"
	    "    print c, o * 4096, l * 4096; if (r < .05) print \"flush\" } }' >ops\n"
	    "  serve a --socket s; qemu-io -f raw $U <ops >/dev/null; nbdcopy $U back; stop\n"
	    "  qemu-io -f raw model <ops >/dev/null\n"
	    "  cmp model back; fails 1 cmp -n 25165824 model /dev/zero; $B disk check a; serve a --socket s --read-only; nbdcopy $U back; stop; cmp model back\n"
	    "done\n");
}

static void chains(void **state)
{
	run_script("$B disk create a.vhdx 64M --block-size 1M\n"
		   "$B disk create b.vhdx --parent a.vhdx\n"
		   "mkdir d\n"
		   "$B disk create d/c.vhdx --parent b.vhdx --json | grep -q '\"parent\": \"b.vhdx\"'\n"
		   "fails 2 $B disk create e.vhdx 1G --parent a.vhdx\n"
		   "$B disk info d/c.vhdx | grep -q '^format *vhdx, differencing'\n"
		   "test $($B disk info d/c.vhdx | grep -c 'parent .*vhdx (') = 2\n"
		   "test $($B disk info d/c.vhdx --json | grep -c '\"file\"') = 3\n"
		   "$B disk check d/c.vhdx\n"
		   "cp -r . ../x-$$; (cd ../x-$$; fails 1 $B disk merge d/c.vhdx --into e.vhdx; $B disk merge d/c.vhdx --into a.vhdx;"
		   "  $B disk check a.vhdx; test ! -e d/c.vhdx; test ! -e b.vhdx); rm -r ../x-$$\n"
		   "mv a.vhdx q.vhdx\n"
		   "fails 1 $B disk check d/c.vhdx --json >json; grep -q '\"code\": \"ENOENT\"' json\n"
		   "fails 1 $B disk reparent b.vhdx d/c.vhdx\n"
		   "$B disk reparent b.vhdx q.vhdx\n"
		   "$B disk merge b.vhdx --json | grep -q '\"parent\": \".*/q.vhdx\"'\n"
		   "test ! -e b.vhdx\n"
		   "$B disk reparent d/c.vhdx q.vhdx\n"
		   "$B disk create x.vhdx 64M\n"
		   "fails 1 $B disk reparent d/c.vhdx x.vhdx --json >json; grep -q '\"code\": \"ESTALE\"' json\n"
		   "$B disk reparent d/c.vhdx x.vhdx --force\n"
		   "fails 1 $B disk reparent d/c.vhdx q.vhdx\n"
		   "$B disk reparent d/c.vhdx q.vhdx --force\n"
		   "$B disk merge d/c.vhdx\n"
		   "test ! -e d/c.vhdx\n"
		   "fails 1 $B disk merge q.vhdx\n"
		   "$B disk check q.vhdx\n");
}

static void vhd_chains(void **state)
{
	run_script("head -c 3M /dev/urandom >model; $B disk convert model a.vhd; mkdir d\n"
		   "$B disk create d/b.avhd --parent a.vhd; $B disk create c.vhd --parent d/b.avhd\n"
		   "$B disk info c.vhd | grep 'vhd, differencing'; $B disk info c.vhd | grep -A1 'parent .*/d/b.avhd (differencing'\n"
		   "$B disk info c.vhd --json | grep -c '\"format\": \"vhd\"' | grep 3; $B disk check c.vhd\n"
		   "$B disk bench d/b.avhd --overwrite --seconds 1; fails 1 $B disk info c.vhd 2>why\n"
		   "grep 'has been changed since' why; $B disk reparent c.vhd d/b.avhd --force; $B disk check c.vhd\n"
		   "$B disk convert d/b.avhd flat.raw; $B disk convert c.vhd c.raw; cmp flat.raw c.raw\n"
		   "$B disk merge d/b.avhd; test ! -e d/b.avhd; fails 1 $B disk info c.vhd\n"
		   "$B disk reparent c.vhd a.vhd --force; $B disk merge c.vhd; $B disk check a.vhd\n"
		   "$B disk convert a.vhd a.raw; cmp a.raw flat.raw; $B disk map a.vhd\n"
		   "$B disk create x.vhdx 1M; fails 1 $B disk create y.vhd --parent x.vhdx\n");
}

/* What a file becomes by its name. */
static void endings(void **state)
{
	run_script("is() { $B disk info --json $1 | grep -q \"\\\"format\\\": \\\"$2\\\"\"; }\n"
		   "head -c 1M /dev/urandom >model\n"
		   "for e in raw img iso IMG; do\n"
		   "  $B disk create a.$e 1M; is a.$e raw; $B disk convert model b.$e; cmp model b.$e\n"
		   "done\n"
		   "for e in vhdx avhdx Vhdx x tar.vhdx 'd.raw/x'; do\n"
		   "  mkdir -p d.raw; $B disk create a.$e 1M 2>why || fails 0 $B disk create $e 1M 2>why\n"
		   "  test -e $e || { is a.$e vhdx; $B disk convert a.$e b.$e 2>>why; is b.$e vhdx; }\n"
		   "  case $e in *hdx) ! test -s why;; *) grep -q \"$e: its ending names no format\" why;; esac\n"
		   "done\n"
		   "is d.raw/x vhdx\n"
		   "for e in vhd avhd; do\n"
		   "  $B disk create a.$e 1M; is a.$e vhd; $B disk check a.$e; $B disk convert model b.$e; is b.$e vhd\n"
		   "  $B disk convert b.$e back.raw --replace; cmp back.raw model\n"
		   "  $B disk convert b.$e b.vhdx --replace; $B disk convert b.vhdx c.$e --fixed; $B disk check c.$e\n"
		   "  cmp -n 1048576 c.$e model; $B disk info c.$e | grep 'vhd, fixed'\n"
		   "done\n"
		   "for e in qcow2 vmdk vdi; do\n"
		   "  fails 2 $B disk create c.$e 1M 2>why; grep -q \"that end in .$e are not written\" why; test ! -e c.$e\n"
		   "  fails 2 $B disk convert model c.$e\n"
		   "  $B disk convert model c.$e --format vhdx; is c.$e vhdx; $B disk create d.$e 1M --raw; is d.$e raw\n"
		   "done\n"
		   "$B disk create c.raw 1M --format vhdx; is c.raw vhdx\n"
		   "fails 2 $B disk create c.x 1M --format vmdk\n");
}

/* A whole chain in one file, whatever the kind; the chain stays as it was. */
static void flattened(void **state)
{
	need_clients();
	run_script(SERVE
		   "head -c 3M /dev/urandom >a.raw; head -c 1M /dev/zero >>a.raw; $B disk convert a.raw a.vhdx --block-size 1M\n"
		   "cat a.raw >model\n"
		   "for l in b c d; do\n"
		   "  p=${q:-a.vhdx} q=$l.avhdx; $B disk create $q --parent $p\n"
		   "  head -c 200K /dev/urandom >piece; dd if=piece of=model bs=4096 seek=$((0x$l * 60)) conv=notrunc\n"
		   "  printf 'write -s piece %d 200K\\n' $((0x$l * 60 * 4096)) >ops\n"
		   "  serve $q --socket s; qemu-io -f raw $U <ops; stop\n"
		   "done\n"
		   "sha256sum *.vhdx *.avhdx >sums\n"
		   "$B disk convert d.avhdx flat.raw; cmp flat.raw model\n"
		   "for o in '' --fixed '--block-size 4M'; do\n"
		   "  $B disk convert d.avhdx flat.vhdx --replace $o; ! $B disk info flat.vhdx | grep parent\n"
		   "  qemu-img compare -f raw -F vhdx model flat.vhdx\n"
		   "done\n"
		   "$B disk convert c.avhdx c.raw; fails 1 cmp c.raw model; sha256sum -c sums\n"
		   "mkdir copy; cp a.vhdx [bcd].avhdx copy; rm c.avhdx\n"
		   "$B disk check copy/d.avhdx; $B disk convert copy/d.avhdx copy/d.raw; cmp copy/d.raw model\n"
		   "cd copy; $B disk convert d.avhdx d.avhdx --replace; qemu-img compare -f raw -F vhdx ../model d.avhdx\n");
}

/* Images that Windows programs have made, against what QEMU reads in them. */
static void made_by_windows(void **state)
{
	need_clients();
	if (system("$SOURCE/scripts/samples >/dev/null") != 0)
		skip(); /* it has said why */
	run_script(SERVE
		   "S=$($SOURCE/scripts/samples)\n"
		   "take() { cp --sparse=always $S/$1 a.vhdx; cp --sparse=always $S/$1 b.vhdx; qemu-img check -q -f vhdx -r all b.vhdx; }\n"
		   /* What was ever written lies in the first 256 MiB. */
		   "head() { qemu-img dd -f $1 -O raw bs=1M count=256 if=$2 of=$3; }\n"
		   "same() { head vhdx a.vhdx a; head vhdx b.vhdx b; cmp a b; }\n"
		   "for i in iotest-dirtylog-10G-4M iotest-dynamic-1G test-disk2vhd; do\n"
		   "  take $i.vhdx; $B disk check a.vhdx; $B disk info a.vhdx\n"
		   "  $B disk convert a.vhdx c.raw --replace; head vhdx b.vhdx b; head raw c.raw c; cmp b c\n"
		   "  cmp a.vhdx $S/$i.vhdx\n" /* reading changes nothing, a log is as it was */
		   "  serve a.vhdx --socket s; printf 'write -P 9 5M 70M\\nwrite -P 7 200M 3M\\nflush\\n' >ops\n"
		   "  qemu-io -f raw $U <ops; stop; qemu-io -f vhdx b.vhdx <ops\n"
		   "  $B disk check a.vhdx; qemu-img check -f vhdx a.vhdx; same\n"
		   "done\n"
		   /* As QEMU's own test of this image says. */
		   "take iotest-dynamic-1G.vhdx; serve a.vhdx --socket s --read-only\n"
		   "qemu-io -r -f raw -c 'read -P 0xa5 0 33M' -c 'read -P 0x96 33M 33M' -c 'read -P 0 66M 500M' $U >read; stop\n"
		   "! grep -i 'fail\\|error' read\n"
		   /* Disk2VHD writes two headers of the same number. */
		   "take test-disk2vhd.vhdx\n"
		   "for o in 65536 131072; do dd if=$S/test-disk2vhd.vhdx of=h.$o bs=4096 skip=$(($o / 4096)) count=1; done\n"
		   "cmp h.65536 h.131072\n");
}

/* The library as another program gets it: with what was installed, and pkg-config, alone. */
static void library(void **state)
{
#ifdef SANITIZED
	skip(); /* the example is not built with the sanitizer that the library needs */
#endif
	run_script("meson install -C $BUILD --no-rebuild --destdir $PWD/root --tags runtime,devel,man >/dev/null\n"
		   "pc=$(find root -name libbulkhead-disk.pc); so=$(find root -name libbulkhead-disk.so)\n"
		   "export PKG_CONFIG_LIBDIR=$(dirname $pc) PKG_CONFIG_SYSROOT_DIR=$PWD/root\n"
		   "cp $SOURCE/examples/first_sector.c .\n"
		   "cc -std=c11 -Wall -Wextra -Werror first_sector.c -o first_sector $(pkg-config --cflags --libs libbulkhead-disk)\n"
		   "printf 'the first sector' >a.raw; truncate -s 1M a.raw; $B disk convert a.raw a.vhdx\n"
		   "LD_LIBRARY_PATH=$(dirname $so) ./first_sector a.vhdx | grep -qa 'the first sector'\n"
		   "fails 1 env LD_LIBRARY_PATH=$(dirname $so) ./first_sector missing\n"
		   "readelf -d $so | grep -q 'SONAME.*libbulkhead-disk.so.0'\n"
		   "nm -D --defined-only $so | sed -n 's/.* T \\([a-z_]*\\)@.*/\\1/p' | sort >exported\n"
		   "sed -n 's/^[a-z].*[ *]\\(disk_[a-z_]*\\)(.*/\\1/p' $SOURCE/disk/disk.h | sort >declared\n"
		   "diff declared exported; test -s exported\n"
		   "for h in base/types.h disk/disk.h; do for x in c c++; do\n"
		   "  echo \"#include <$h>\" | clang -x $x $(pkg-config --cflags libbulkhead-disk) -Wall -Wextra -Wpedantic -Werror -fsyntax-only -\n"
		   "done; done\n"
		   "one=$BUILD/packaging/bulkhead-disk.1 three=$(find root -name libbulkhead-disk.3*)\n"
		   "for v in $($B disk --help | sed -n 's/^  \\([a-z]*\\) .*/\\1/p'); do grep -q \"^.SS $v:\" $one; done\n"
		   "for f in $(cat declared); do grep -q \"fB$f.fR\" $three; done\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(verbs),
		cmocka_unit_test(chains),
		cmocka_unit_test(map_and_bench),
		cmocka_unit_test(resize),
		cmocka_unit_test(compact),
		cmocka_unit_test(interrupted),
		cmocka_unit_test(foreign),
		cmocka_unit_test(served),
		cmocka_unit_test(served_for_reading),
		cmocka_unit_test(server_killed),
		cmocka_unit_test(tracked),
		cmocka_unit_test(random_operations),
		cmocka_unit_test(vhd_chains),
		cmocka_unit_test(endings),
		cmocka_unit_test(flattened),
		cmocka_unit_test(made_by_windows),
		cmocka_unit_test(library),
	};

	return cmocka_run_group_tests(tests, enter, leave);
}
