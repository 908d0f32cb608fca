/* SPDX-License-Identifier: GPL-2.0-or-later */
/* guestbench: small CPU/OS workloads, one line per workload: "name rate unit".
 * gcc -O2 -static -o guestbench guestbench.c
 * Usage: guestbench [-t seconds_per_workload] [name ...]
 * Every workload runs whole batches until the time budget has gone by (checked
 * only between batches), so that the same binary suits a host and a guest that
 * is 100 times slower.  Rates are per second of CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/mman.h>

static double budget = 1.0;
static volatile uint64_t sink;

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void put(const char *name, double rate, const char *unit)
{
	printf("%-12s %14.1f %s\n", name, rate, unit);
	fflush(stdout);
}

/* run batch() (which returns how many units it did) until budget is spent */
static double drive(double (*batch)(void))
{
	double units = 0, t0 = now(), t;
	do {
		units += batch();
		t = now();
	} while (t - t0 < budget);
	return units / (t - t0);
}

/* ---- integer: xorshift + multiply + data-dependent branch ---- */
static double b_int(void)
{
	uint64_t x = 88172645463325252ull, a = 0;
	for (int i = 0; i < 1000000; i++) {
		x ^= x << 13; x ^= x >> 7; x ^= x << 17;
		if (x & 1) a += x * 3; else a ^= x >> 3;
	}
	sink += a;
	return 1.0; /* M iterations */
}

/* ---- integer without hard branches: four independent multiply/rotate chains ---- */
static double b_alu(void)
{
	static uint64_t a = 1, b = 2, c = 3, d = 4;
	uint64_t p = a, q = b, r = c, s = d;
	for (int i = 0; i < 250000; i++) {
		p = p * 0x9E3779B97F4A7C15ull + i; q = (q << 7 | q >> 57) + p;
		r = r * 0xC2B2AE3D27D4EB4Full ^ q; s = (s >> 9) + (r & 0xffff) * 5 + s;
		__asm__("" : "+r"(p), "+r"(q), "+r"(r), "+r"(s));
	}
	a = p; b = q; c = r; d = s;
	sink += p ^ q ^ r ^ s;
	return 0.25; /* M iterations */
}

/* ---- calls: recursive fib (direct call/ret), and calls through a table ---- */
static __attribute__((noinline, noclone)) unsigned fib(unsigned n)
{
	if (n < 2) return n;
	unsigned a = fib(n - 1);
	__asm__("" : "+r"(a)); /* keep gcc from turning a call into a loop */
	unsigned b = fib(n - 2);
	__asm__("" : "+r"(b));
	return a + b;
}
static double b_call(void)
{
	unsigned n = 20;
	__asm__("" : "+r"(n));
	sink += fib(n);
	return 21891 * 1e-6; /* M calls: 2*fib(21)-1 */
}
#define FN(n, e) static __attribute__((noinline)) uint64_t n(uint64_t x) { return e; }
FN(f0, x + 1) FN(f1, x * 3) FN(f2, x ^ 0x55) FN(f3, x >> 1) FN(f4, x - 7) FN(f5, ~x) FN(f6, x << 2) FN(f7, x | 1)
static double b_icall(void)
{
	static uint64_t (*const volatile tab[8])(uint64_t) = { f0, f1, f2, f3, f4, f5, f6, f7 };
	uint64_t x = 1;
	for (unsigned i = 0; i < 100000; i++) x = tab[i & 7](x);
	sink += x;
	return 0.1; /* M indirect calls */
}

/* ---- SHA-256 in plain C ---- */
static const uint32_t K[64] = {
0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,
0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,
0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,
0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,
0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,
0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,
0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,
0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2};
#define ROR(x,n) (((x)>>(n))|((x)<<(32-(n))))
static void sha_block(uint32_t h[8], const unsigned char *p)
{
	uint32_t w[64], s[8];
	for (int i = 0; i < 16; i++) {
		uint32_t v; memcpy(&v, p + 4 * i, 4); w[i] = __builtin_bswap32(v);
	}
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i-15], b = w[i-2];
		w[i] = w[i-16] + (ROR(a,7)^ROR(a,18)^(a>>3)) + w[i-7] + (ROR(b,17)^ROR(b,19)^(b>>10));
	}
	memcpy(s, h, 32);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (ROR(s[4],6)^ROR(s[4],11)^ROR(s[4],25)) + ((s[4]&s[5])^(~s[4]&s[6])) + K[i] + w[i];
		uint32_t t2 = (ROR(s[0],2)^ROR(s[0],13)^ROR(s[0],22)) + ((s[0]&s[1])^(s[0]&s[2])^(s[1]&s[2]));
		s[7]=s[6]; s[6]=s[5]; s[5]=s[4]; s[4]=s[3]+t1; s[3]=s[2]; s[2]=s[1]; s[1]=s[0]; s[0]=t1+t2;
	}
	for (int i = 0; i < 8; i++) h[i] += s[i];
}
static double b_sha(void)
{
	static unsigned char buf[65536];
	static uint32_t h[8] = {0x6a09e667,0xbb67ae85,0x3c6ef372,0xa54ff53a,0x510e527f,0x9b05688c,0x1f83d9ab,0x5be0cd19};
	for (size_t i = 0; i < sizeof buf; i += 64) sha_block(h, buf + i);
	sink += h[0];
	return sizeof buf / 1048576.0; /* MiB */
}

static inline double dsqrt(double x) { double r; __asm__("sqrtsd %1, %0" : "=x"(r) : "x"(x)); return r; }

/* ---- scalar double: 5-body, as in the well-known benchmark ---- */
struct body { double x[3], v[3], m; };
static struct body bod[5] = {
 {{0,0,0},{0,0,0},39.47841760435743},
 {{4.84143144246472090,-1.16032004402742839,-0.103622044471123109},{0.606326392995832,2.81198684491626,-0.02521836165988763},0.03769367487038949},
 {{8.34336671824457987,4.12479856412430479,-0.403523417114321381},{-1.01077434617879,1.8256623712304,0.008415761376584154},0.011286326131968767},
 {{12.8943695621391310,-15.1111514016986312,-0.223307578892655734},{1.08279100644154,0.868713018169608,-0.010832637401363636},0.0017237240570597112},
 {{15.3796971148509165,-25.9193146099879641,0.179258772950371181},{0.979090732243898,0.594698998647676,-0.034755955504078104},0.0020336868699246304}};
static double b_nbody(void)
{
	const double dt = 0.001;
	for (int n = 0; n < 10000; n++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d0 = bod[i].x[0]-bod[j].x[0], d1 = bod[i].x[1]-bod[j].x[1], d2 = bod[i].x[2]-bod[j].x[2];
				double q = d0*d0 + d1*d1 + d2*d2;
				double mag = dt / (q * dsqrt(q));
				double mi = bod[i].m * mag, mj = bod[j].m * mag;
				bod[i].v[0] -= d0*mj; bod[i].v[1] -= d1*mj; bod[i].v[2] -= d2*mj;
				bod[j].v[0] += d0*mi; bod[j].v[1] += d1*mi; bod[j].v[2] += d2*mi;
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++) bod[i].x[k] += dt * bod[i].v[k];
	}
	sink += (uint64_t)(bod[0].x[0] * 1e6);
	return 10.0; /* k steps */
}

/* ---- packed double SSE2: mandelbrot, two points at a time ---- */
typedef double v2d __attribute__((vector_size(16)));
static double b_mandel(void)
{
	long it = 0;
	for (int py = 0; py < 16; py++)
		for (int px = 0; px < 64; px += 2) {
			v2d cr = { -2.0 + 3.0 * px / 64, -2.0 + 3.0 * (px + 1) / 64 };
			double cy = -1.0 + 2.0 * py / 16;
			v2d ci = { cy, cy }, zr = { 0, 0 }, zi = { 0, 0 };
			for (int k = 0; k < 200; k++) {
				v2d r2 = zr * zr, i2 = zi * zi;
				v2d m = r2 + i2;
				if (m[0] > 4.0 && m[1] > 4.0) break;
				zi = (zr + zr) * zi + ci;
				zr = r2 - i2 + cr;
				/* keep runaway lanes finite */
				if (m[0] > 1e6) zr[0] = zi[0] = 10;
				if (m[1] > 1e6) zr[1] = zi[1] = 10;
				it++;
			}
		}
	sink += it;
	return it * 2e-6; /* M point-iterations */
}

/* ---- memory: dependent pointer chase over 64 MiB, one line apart ---- */
#define CHASE_N (64u * 1024 * 1024 / 64)
static uint64_t (*chase)[8];
static uint64_t chase_pos;
static void chase_init(void)
{
	chase = mmap(0, (size_t)CHASE_N * 64, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (chase == MAP_FAILED) { perror("mmap"); exit(1); }
	/* full-period LCG over 2^20 lines: a single cycle, no shuffle table */
	for (uint64_t i = 0; i < CHASE_N; i++)
		chase[i][0] = (i * 1664525u + 1013904223u) & (CHASE_N - 1);
}
static double b_chase(void)
{
	uint64_t p = chase_pos;
	for (int i = 0; i < 100000; i++) p = chase[p][0];
	chase_pos = p;
	return 0.1; /* M loads */
}

/* ---- memory bandwidth: memcpy of 8 MiB ---- */
static double b_memcpy(void)
{
	static char *a, *b;
	if (!a) { a = malloc(8 << 20); b = malloc(8 << 20); memset(a, 1, 8 << 20); memset(b, 2, 8 << 20); }
	memcpy(a, b, 8 << 20);
	__asm__ volatile("" ::: "memory");
	return 8.0; /* MiB */
}

/* ---- syscalls ---- */
static double b_getppid(void)
{
	for (int i = 0; i < 2000; i++) syscall(SYS_getppid);
	return 2000;
}

/* ---- page faults: map, touch, unmap 256 pages ---- */
static double b_fault(void)
{
	char *p = mmap(0, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(p, 256 * 4096, MADV_NOHUGEPAGE);
	for (int i = 0; i < 256; i++) p[i * 4096] = 1;
	munmap(p, 256 * 4096);
	return 256;
}

/* ---- fork + exec of this very program, which leaves at once ---- */
static char self[4096];
static double b_forkexec(void)
{
	pid_t pid = fork();
	if (pid == 0) { execl(self, self, "--exit", (char *)0); _exit(127); }
	int st; waitpid(pid, &st, 0);
	if (st) { fprintf(stderr, "exec %s failed: %x\n", self, st); exit(1); }
	return 1;
}

/* ---- context switch: two processes pinned to one CPU, byte over two pipes ---- */
static int pa[2], pb[2];
static double b_pipe(void)
{
	char c = 0;
	for (int i = 0; i < 200; i++) {
		if (write(pa[1], &c, 1) != 1 || read(pb[0], &c, 1) != 1) exit(1);
	}
	return 400; /* two switches a round trip */
}
static double run_pipe(void)
{
	cpu_set_t s, old;
	CPU_ZERO(&s); CPU_SET(0, &s);
	sched_getaffinity(0, sizeof old, &old);
	sched_setaffinity(0, sizeof s, &s);
	if (pipe(pa) || pipe(pb)) exit(1);
	pid_t pid = fork();
	if (pid == 0) {
		char c;
		close(pa[1]);
		while (read(pa[0], &c, 1) == 1) if (write(pb[1], &c, 1) != 1) break;
		_exit(0);
	}
	double r = drive(b_pipe);
	close(pa[1]); close(pa[0]); close(pb[0]); close(pb[1]);
	waitpid(pid, 0, 0);
	sched_setaffinity(0, sizeof old, &old);
	return r;
}

static int want(int argc, char **argv, int first, const char *n)
{
	if (first >= argc) return 1;
	for (int i = first; i < argc; i++) if (!strcmp(argv[i], n)) return 1;
	return 0;
}

int main(int argc, char **argv)
{
	int first = 1;
	if (argc > 1 && !strcmp(argv[1], "--exit")) return 0;
	if (argc > 2 && !strcmp(argv[1], "-t")) { budget = atof(argv[2]); first = 3; }
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n <= 0) { strncpy(self, argv[0], sizeof self - 1); }
#define W(name) if (want(argc, argv, first, name))
	W("int") put("int", drive(b_int), "Miter/s");
	W("alu") put("alu", drive(b_alu), "Miter/s");
	W("call") put("call", drive(b_call), "Mcall/s");
	W("icall") put("icall", drive(b_icall), "Mcall/s");
	W("sha256") put("sha256", drive(b_sha), "MiB/s");
	W("nbody") put("nbody", drive(b_nbody), "kstep/s");
	W("mandel") put("mandel", drive(b_mandel), "Mpointiter/s");
	W("chase") { chase_init(); put("chase", drive(b_chase), "Mload/s"); munmap(chase, (size_t)CHASE_N * 64); }
	W("memcpy") put("memcpy", drive(b_memcpy), "MiB/s");
	W("syscall") put("syscall", drive(b_getppid), "call/s");
	W("fault") put("fault", drive(b_fault), "fault/s");
	W("forkexec") put("forkexec", drive(b_forkexec), "proc/s");
	W("pipe") put("pipe", run_pipe(), "switch/s");
	return 0;
}
