/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints the system calls of the sandbox, a JSON object each, for tests/guest/test_calls.py. */
#include <seccomp.h>

#include "base/thread.h"
#include "switch/nat_sandbox.h"
#include "worker/sandbox_rules.h"

static void print_call(const char *list, int call, const struct sandbox_rule *rule)
{
	static const char *const kinds[] = {[THREAD_VP] = "vp", [THREAD_DISK] = "disk", [THREAD_TIMER] = "timer", [THREAD_BUS] = "bus",
					    [THREAD_NETWORK] = "network"};
	const char *comma = "";
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, call);

	printf("{\"list\": \"%s\", \"call\": \"%s\", \"kinds\": [", list, name);
	for (unsigned i = 0; rule && i < ARRAY_SIZE(kinds); i++)
		if (rule->kinds & 1u << i) {
			printf("%s\"%s\"", comma, kinds[i]);
			comma = ", ";
		}
	printf("]");
	printf(", \"compares\": [");
	for (unsigned i = 0; rule && i < rule->compares; i++)
		printf("%s[%u, %llu, %llu]", i ? ", " : "", rule->comparisons[i].argument, (unsigned long long)rule->comparisons[i].mask,
		       (unsigned long long)rule->comparisons[i].value);
	printf("]");
	printf("}\n");
	free(name);
}

int main(void)
{
	for (size_t i = 0; i < sandbox_rule_count; i++)
		print_call("all", sandbox_rules[i].call, &sandbox_rules[i]);
	for (size_t i = 0; i < sandbox_kvm_rule_count; i++)
		print_call("kvm", sandbox_kvm_rules[i].call, &sandbox_kvm_rules[i]);
	for (size_t i = 0; i < sandbox_refusal_count; i++)
		print_call("refused", sandbox_refusals[i].call, NULL);
	for (size_t i = 0; i < nat_sandbox_call_count; i++)
		print_call("nat", nat_sandbox_calls[i], NULL);
	return 0;
}
