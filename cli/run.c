/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "image/image.h"
#include "switch/nat.h"
#include "worker/worker.h"

static const char usage[] =
    "Usage: bulkhead run (--image DIR | --kernel FILE) [OPTION …]\n"
    "\n"
    "Starts one virtual machine in the foreground; its first serial port is this terminal.\n"
    "\n"
    "  --image DIR            a guest image made by bulkhead image build: kernel, initrd, disk\n"
    "  --kernel FILE          a Linux bzImage, or a multiboot kernel\n"
    "  --initrd FILE          its initial RAM disk\n"
    "  --append TEXT          its command line; with --image, added to the image's own\n"
    "  --module FILE          a multiboot module (repeatable)\n"
    "  --disk FILE[,ro][,controller=N]\n"
    "                         a VHDX or raw disk on SCSI controller N, 0 to 3 (repeatable)\n"
    "  --dvd FILE             an ISO file in a DVD drive (repeatable)\n"
    "  --memory SIZE          such as 512M or 4G (default 1G)\n"
    "  --cpus N               virtual processors, 1 to 64 (default 1)\n"
    "  --processor KIND       kvm runs the guest in hardware, soft needs none; auto (default) takes kvm where\n"
    "                         it works. kvm,hyperv=kernel|own says who serves Hyper-V: the host's kernel\n"
    "                         (where it can) or the machine's own process; kvm,hardware=any also takes a\n"
    "                         /dev/kvm with no hardware behind it, which is slow; soft,translate=off only\n"
    "                         interprets, which is slower and the reference for what code does\n"
    "  --compatible           show the guest only the features that every kind of processor serves here,\n"
    "                         so that its saved state can go on on another kind\n"
    "  --network WHAT         nat (default), none, or tap:NAME: what the network adapter is plugged into; given\n"
    "                         again, another adapter (8 at most). nat is a network of the guest's own, from which\n"
    "                         it reaches what the host reaches, but not the host's loopback addresses unless\n"
    "                         it is nat,host; tap:NAME is a tap interface of the host\n"
    "  --forward [udp:][ADDRESS:]PORT:GUESTPORT\n"
    "                         connections to a port of the host go to the guest behind nat (repeatable)\n"
    "  --serial WHAT          stdio, unix:PATH, file:PATH or none; given twice, the second is COM2\n"
    "                         (default stdio)\n"
    "  --control PATH         a Unix socket for bulkhead control\n"
    "  --restore FILE         go on where a machine was saved (bulkhead control SOCKET save FILE); all else as\n"
    "                         it was then\n"
    "  --name NAME            what to call the machine (default guest)\n"
    "  --no-reboot            end when the guest resets, instead of starting it again\n"
    "  --debug-exit           let a bare test kernel end the machine by writing to port 0xf4, and set\n"
    "                         the I/O APIC's pins by ports 0x2000 to 0x2017\n"
    "\n"
    "On a terminal, Ctrl-] and then: s shuts the guest down, x cuts the power, p pauses and resumes,\n"
    "b presses the power button, ? tells this. SIGTERM asks the guest to shut down; a second one cuts\n"
    "the power.\n"
    "\n"
    "Exit status: 0 the guest turned itself off; 1 the machine could not be started; 2 wrong options;\n"
    "3 the guest crashed; 4 the power was cut; 5 it was saved. With --debug-exit, what the guest wrote.\n";

enum {
	OPT_IMAGE = 256,
	OPT_KERNEL,
	OPT_INITRD,
	OPT_APPEND,
	OPT_MODULE,
	OPT_DISK,
	OPT_DVD,
	OPT_MEMORY,
	OPT_CPUS,
	OPT_PROCESSOR,
	OPT_COMPATIBLE,
	OPT_NETWORK,
	OPT_FORWARD,
	OPT_SERIAL,
	OPT_CONTROL,
	OPT_RESTORE,
	OPT_NAME,
	OPT_NO_REBOOT,
	OPT_DEBUG_EXIT,
	OPT_HELP
};

static const struct option options[] = {{"image", required_argument, NULL, OPT_IMAGE},
					{"kernel", required_argument, NULL, OPT_KERNEL},
					{"initrd", required_argument, NULL, OPT_INITRD},
					{"append", required_argument, NULL, OPT_APPEND},
					{"module", required_argument, NULL, OPT_MODULE},
					{"disk", required_argument, NULL, OPT_DISK},
					{"dvd", required_argument, NULL, OPT_DVD},
					{"memory", required_argument, NULL, OPT_MEMORY},
					{"cpus", required_argument, NULL, OPT_CPUS},
					{"processor", required_argument, NULL, OPT_PROCESSOR},
					{"compatible", no_argument, NULL, OPT_COMPATIBLE},
					{"network", required_argument, NULL, OPT_NETWORK},
					{"forward", required_argument, NULL, OPT_FORWARD},
					{"serial", required_argument, NULL, OPT_SERIAL},
					{"control", required_argument, NULL, OPT_CONTROL},
					{"restore", required_argument, NULL, OPT_RESTORE},
					{"name", required_argument, NULL, OPT_NAME},
					{"no-reboot", no_argument, NULL, OPT_NO_REBOOT},
					{"debug-exit", no_argument, NULL, OPT_DEBUG_EXIT},
					{"help", no_argument, NULL, OPT_HELP},
					{NULL, 0, NULL, 0}};

struct run_options {
	struct worker_config config;
	const char *image;
	unsigned serial_count;
	bool no_network;
	struct nat_config nat; /* of the first adapter that is plugged into one */
	struct image loaded;
	char *append;
};

static int parse_disk(struct run_options *o, char *text, bool dvd, struct error *err)
{
	struct worker_disk *d;
	char *part;

	if (o->config.disk_count + 1 >= WORKER_MAX_DISKS) /* one place is kept for the image's disk */
		return error_set(err, EINVAL, "%s: a machine takes at most %u disks", text, WORKER_MAX_DISKS);
	d = &o->config.disks[o->config.disk_count++];
	*d = (struct worker_disk){.path = text, .dvd = dvd};
	while ((part = strrchr(text, ','))) {
		if (!strcmp(part, ",ro"))
			d->read_only = true;
		else if (strncmp(part, ",controller=", 12) != 0)
			break;
		else if (!parse_number(part + 12, WORKER_MAX_CONTROLLERS - 1, &d->controller))
			return error_set(err, EINVAL, "%s: there is no controller \"%s\": choose 0 to %u",
					 text, part + 12, WORKER_MAX_CONTROLLERS - 1);
		*part = '\0';
	}
	return *text
		   ? 0
		   : error_set(err, EINVAL, "%s: the name of the file is missing", dvd ? "--dvd" : "--disk");
}

static int parse_serial(struct run_options *o, const char *text, struct error *err)
{
	struct worker_serial *s;

	if (o->serial_count == WORKER_SERIAL_PORTS)
		return error_set(err, EINVAL, "--serial %s: there are only two serial ports", text);
	s = &o->config.serial[o->serial_count++];
	if (!strcmp(text, "stdio")) {
		if (o->serial_count == 2 && o->config.serial[0].kind == WORKER_SERIAL_STDIO)
			return error_set(err, EINVAL,
					 "--serial stdio: the first serial port is there already");
		*s = (struct worker_serial){WORKER_SERIAL_STDIO, NULL};
	} else if (!strncmp(text, "unix:", 5) && text[5]) {
		*s = (struct worker_serial){WORKER_SERIAL_UNIX, text + 5};
	} else if (!strncmp(text, "file:", 5) && text[5]) {
		*s = (struct worker_serial){WORKER_SERIAL_FILE, text + 5};
	} else if (!strcmp(text, "none")) {
		*s = (struct worker_serial){WORKER_SERIAL_NONE, NULL};
	} else {
		return error_set(err, EINVAL, "--serial %s: write stdio, unix:PATH, file:PATH or none", text);
	}
	return 0;
}

static int parse_cpus(struct run_options *o, const char *text, struct error *err)
{
	unsigned count;

	if (!parse_number(text, PARTITION_MAX_VPS, &count) || !count)
		return error_set(err, EINVAL, "--cpus %s: a machine has 1 to %u virtual processors", text,
				 PARTITION_MAX_VPS);
	o->config.vp_count = count;
	return 0;
}

static int parse_module(struct run_options *o, const char *text, struct error *err)
{
	if (o->config.module_count == WORKER_MAX_MODULES)
		return error_set(err, EINVAL, "--module %s: a machine takes at most %u", text,
				 WORKER_MAX_MODULES);
	o->config.modules[o->config.module_count++] = text;
	return 0;
}

static int parse_network(struct run_options *o, const char *text, struct error *err)
{
	struct worker_config *c = &o->config;
	struct worker_adapter *a;

	if (!strcmp(text, "none")) {
		o->no_network = true;
		return c->adapter_count ? error_set(err, EINVAL, "--network none: an adapter was asked for before") : 0;
	}
	if (o->no_network || c->adapter_count == WORKER_MAX_ADAPTERS)
		return error_set(err, EINVAL, "--network %s: %s", text,
				 o->no_network ? "--network none was said before" : "a machine has at most 8 adapters");
	a = &c->adapters[c->adapter_count++];
	*a = (struct worker_adapter){.fd = -1};
	if (!strncmp(text, "tap:", 4) && text[4]) {
		a->kind = WORKER_PORT_TAP;
		a->tap = text + 4;
		a->any_mac = true; /* who makes the interface decides what comes through it */
		return 0;
	}
	if (!strcmp(text, "nat,host"))
		o->nat.host_loopback = true;
	else if (strcmp(text, "nat") != 0)
		return error_set(err, EINVAL, "--network %s: write nat, nat,host, tap:NAME or none", text);
	for (struct worker_adapter *other = c->adapters; other < a; other++)
		if (other->kind == WORKER_PORT_SOCKET)
			return error_set(err, EINVAL, "--network %s: one adapter behind nat is enough for a machine", text);
	a->kind = WORKER_PORT_SOCKET;
	return 0;
}

static int parse_forward(struct run_options *o, const char *text, struct error *err)
{
	if (o->nat.forward_count == NAT_FORWARDS_MAX)
		return error_set(err, EINVAL, "--forward %s: there are at most %u", text, NAT_FORWARDS_MAX);
	return nat_forward_parse(&o->nat.forwards[o->nat.forward_count++], text, err) ? error_prefix(err, "--forward") : 0;
}

static int parse_option(struct run_options *o, int option, char *value, struct error *err)
{
	switch (option) {
	case OPT_IMAGE:
		o->image = value;
		return 0;
	case OPT_KERNEL:
		o->config.kernel = value;
		return 0;
	case OPT_INITRD:
		o->config.initrd = value;
		return 0;
	case OPT_APPEND:
		o->config.append = value;
		return 0;
	case OPT_MODULE:
		return parse_module(o, value, err);
	case OPT_DISK:
		return parse_disk(o, value, false, err);
	case OPT_DVD:
		return parse_disk(o, value, true, err);
	case OPT_MEMORY:
		return parse_size(value, &o->config.memory, err);
	case OPT_CPUS:
		return parse_cpus(o, value, err);
	case OPT_PROCESSOR:
		return worker_set_processor(&o->config, value, err) ? error_prefix(err, "--processor") : 0;
	case OPT_COMPATIBLE:
		o->config.compatible = true;
		return 0;
	case OPT_NETWORK:
		return parse_network(o, value, err);
	case OPT_FORWARD:
		return parse_forward(o, value, err);
	case OPT_SERIAL:
		return parse_serial(o, value, err);
	case OPT_CONTROL:
		o->config.control_path = value;
		return 0;
	case OPT_RESTORE:
		o->config.restore = value;
		return 0;
	case OPT_NAME:
		o->config.name = value;
		return 0;
	case OPT_NO_REBOOT:
		o->config.no_reboot = true;
		return 0;
	case OPT_DEBUG_EXIT:
		o->config.exit_port = true;
		return 0;
	default:
		return error_set(err, EINVAL, "see bulkhead run --help");
	}
}

/* The image gives kernel, initrd, first disk and command line; what was said explicitly wins. */
static int apply_image(struct run_options *o, struct error *err)
{
	struct worker_config *c = &o->config;
	int r;

	if (!o->image)
		return c->kernel ? 0
				 : error_set(err, EINVAL,
					     "what should run? Give --image DIR or --kernel FILE (see "
					     "bulkhead run --help)");
	r = image_load(&o->loaded, o->image, err);
	if (r)
		return r;
	if (!c->kernel)
		c->kernel = o->loaded.kernel;
	if (!c->initrd)
		c->initrd = o->loaded.initrd;
	memmove(c->disks + 1, c->disks, sizeof(c->disks[0]) * c->disk_count);
	c->disks[0] = (struct worker_disk){.path = o->loaded.disk};
	c->disk_count++;
	if (asprintf(&o->append, "%s%s%s", o->loaded.append, c->append ? " " : "",
		     c->append ? c->append : "") < 0) {
		o->append = NULL;
		return error_set(err, ENOMEM, "no memory");
	}
	c->append = o->append;
	return 0;
}

/* An address of the machine's own, always the same for its name. */
static void choose_mac(uint8_t mac[6], const char *name, unsigned index)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	hash += index;
	memcpy(mac, (const uint8_t[]){0x00, 0x15, 0x5d, (uint8_t)(hash >> 16), (uint8_t)(hash >> 8), (uint8_t)hash}, 6);
}

/* Adapters get addresses; the one behind nat gets it started. */
static int plug_in(struct run_options *o, struct error *err)
{
	struct worker_config *c = &o->config;
	bool has_nat = false;
	int r = 0;
	pid_t pid;

	if (!c->adapter_count && !o->no_network)
		c->adapters[c->adapter_count++] = (struct worker_adapter){.kind = WORKER_PORT_SOCKET, .fd = -1};
	for (unsigned i = 0; i < c->adapter_count && !r; i++) {
		choose_mac(c->adapters[i].mac, c->name, i);
		if (c->adapters[i].kind != WORKER_PORT_SOCKET)
			continue;
		has_nat = true;
		nat_prefer_ports(&o->nat, c->adapters[i].mac);
		r = nat_start(&c->adapters[i].fd, &pid, &o->nat, err);
	}
	if (!r && o->nat.forward_count && !has_nat)
		r = error_set(err, EINVAL, "--forward needs an adapter behind nat");
	for (unsigned i = 0; i < o->nat.forward_count && !r; i++)
		if (o->nat.forwards[i].any)
			fprintf(stderr, "port %u of %s leads to port %u of the guest\n", o->nat.forwards[i].host_port, o->nat.forwards[i].host,
				o->nat.forwards[i].guest_port);
	return r;
}

static int start(struct run_options *o)
{
	struct error err = {0};
	enum worker_result result;
	struct worker_end end;

	if (plug_in(o, &err))
		return fail(1, "%s", err.text);
	result = worker_run(&o->config, &end, &err);
	if (result == WORKER_NOT_STARTED)
		return fail(result, "%s", err.text);
	return o->config.exit_port && end.guest_code ? (int)(end.guest_code & 0xff) : (int)result;
}

int command_run(int argc, char **argv)
{
	struct run_options o = {.config = {.name = "guest", .memory = 1ull << 30, .vp_count = 1}};
	struct error err = {0};
	int option, status;

	if (argc == 2 && !strcmp(argv[1], "--dump"))
		return dump_print(dump_new("run", usage));
	while ((option = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (option == OPT_HELP || option == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (option == '?' || parse_option(&o, option, optarg, &err))
			return option == '?' ? EXIT_USAGE : fail(EXIT_USAGE, "%s", err.text);
	}
	if (optind < argc)
		return fail(EXIT_USAGE, "\"%s\" is not an option of run: see bulkhead run --help",
			    argv[optind]);
	if (!o.serial_count)
		o.config.serial[0].kind = WORKER_SERIAL_STDIO;
	if (apply_image(&o, &err)) {
		image_free(&o.loaded);
		return fail(o.image ? 1 : EXIT_USAGE, "%s", err.text);
	}
	status = start(&o);
	image_free(&o.loaded);
	free(o.append);
	return status;
}

/* --- bulkhead control ------------------------------------------------------------------------------ */

static const char control_usage[] =
    "Usage: bulkhead control SOCKET [--json] VERB [ARGUMENT]\n"
    "\n"
    "  status                   what the machine is doing\n"
    "  inspect                  everything about its insides\n"
    "  pause, resume            stop and continue its processors and its time\n"
    "  shutdown                 ask the guest to shut down\n"
    "  power-button             press the power button\n"
    "  reset, power-off         at once, as by switch: the guest may lose data\n"
    "  add-disk FILE[,ro]       add a disk while the guest runs\n"
    "  resize-disk CONTROLLER:LUN BYTES\n"
    "                           change a disk's size; the guest is told with its next request\n"
    "  remove-disk CONTROLLER:LUN\n"
    "  change-medium CONTROLLER:LUN [FILE]\n"
    "                           of a DVD drive; without FILE it is empty then\n"
    "  save FILE                save the machine to a new file and end it; bulkhead run --restore goes on with it\n"
    "  cancel                   of that: the machine goes on\n"
    "\n" STATUS_TEXT ".\n";

int command_control(int argc, char **argv)
{
	struct error err = {0};
	bool json = false;
	int first = 2;

	if (argc == 2 && !strcmp(argv[1], "--dump"))
		return dump_print(dump_new("control", control_usage));
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		fputs(control_usage, stdout);
		return 0;
	}
	if (argc > 2 && !strcmp(argv[2], "--json")) {
		json = true;
		first = 3;
	}
	if (argc <= first)
		return fail(EXIT_USAGE, "say which machine and what to do: see bulkhead control --help");
	if (worker_control(argv[1], argc - first, argv + first, json, stdout, &err))
		return fail(1, "%s", err.text);
	return 0;
}
