/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/access.h"

#include <errno.h>
#include <grp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "vmms/http.h"
#include "vmms/store_access.h"
#include "vmms/tls.h"

/* It is 256 random bits: nothing can be gained by making its hash slow, or salting it. */
#define TOKEN_PREFIX "bulkhead_"
#define TOKEN_BYTES  32u

#define GROUPS_MAX 64u

struct access {
	struct store *store;
	json_t *certificates;
	struct tls_revoked *revoked; /* NULL: none is */
	struct {
		gid_t gid;
		enum role role;
	} groups[GROUPS_MAX];
	size_t group_count;
};

static const char *const words[] = {[ROLE_NONE] = "none",
				    [ROLE_VIEWER] = "viewer",
				    [ROLE_OPERATOR] = "operator",
				    [ROLE_ADMINISTRATOR] = "administrator"};

const char *role_word(enum role role)
{
	return words[role];
}

enum role role_of_word(const char *word)
{
	for (enum role role = ROLE_VIEWER; word && role <= ROLE_ADMINISTRATOR; role++)
		if (!strcmp(words[role], word))
			return role;
	return ROLE_NONE;
}

static int add_group(struct access *access, const json_t *grant, struct error *err)
{
	const char *name = json_string_value(json_object_get(grant, "name"));
	const struct group *group = getgrnam(name);

	if (!group)
		return error_set(err, ENOENT, "groups: this host has no group \"%s\"", name);
	access->groups[access->group_count].gid = group->gr_gid;
	access->groups[access->group_count++].role = role_of_word(json_string_value(json_object_get(grant, "role")));
	return 0;
}

static int open_revoked(struct access *access, const json_t *config, struct error *err)
{
	const char *path = json_string_value(json_object_get(config, "revoked"));
	const char *authority = json_string_value(json_object_get(json_object_get(config, "https"), "client_authority"));

	if (!path)
		return 0;
	if (!authority)
		return error_set(err, EINVAL, "revoked: these are certificates of https.client_authority, and there is none");
	return tls_revoked_load(&access->revoked, path, authority, err);
}

int access_open(struct access **out, const json_t *config, struct store *store, struct error *err)
{
	struct access *access = calloc(1, sizeof(*access));
	json_t *grant;
	size_t i;
	int r = 0;

	if (!access)
		return error_set(err, ENOMEM, "no memory for who may do what");
	access->store = store;
	access->certificates = json_incref(json_object_get(config, "certificates"));
	json_array_foreach(json_object_get(config, "groups"), i, grant)
		if (!r && access->group_count < GROUPS_MAX)
			r = add_group(access, grant, err);
	if (!r)
		r = open_revoked(access, config, err);
	if (r)
		access_close(access);
	else
		*out = access;
	return r;
}

void access_close(struct access *access)
{
	if (!access)
		return;
	json_decref(access->certificates);
	tls_revoked_free(access->revoked);
	free(access);
}

bool access_has_groups(const struct access *access)
{
	return access->group_count > 0;
}

/* --- the Unix socket ------------------------------------------------------------------------------------ */

static enum role group_role(const struct access *access, gid_t gid)
{
	enum role best = ROLE_NONE;

	for (size_t i = 0; i < access->group_count; i++)
		if (access->groups[i].gid == gid && access->groups[i].role > best)
			best = access->groups[i].role;
	return best;
}

/* As the kernel noted them when the peer connected: nobody is asked what groups a user has by now. */
static enum role peer_groups_role(const struct access *access, int fd, gid_t gid)
{
	gid_t few[32], *gids = few;
	socklen_t size = sizeof(few);
	enum role best = group_role(access, gid);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids, &size)) {
		gids = errno == ERANGE ? malloc(size) : NULL;
		if (!gids || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids, &size))
			size = 0;
	}
	for (size_t i = 0; i < size / sizeof(*gids); i++) {
		enum role role = group_role(access, gids[i]);

		if (role > best)
			best = role;
	}
	if (gids != few)
		free(gids);
	return best;
}

static int of_peer(const struct access *access, int fd, struct principal *who, struct error *err)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return error_set(err, EACCES, "the socket does not tell who you are: %s", strerror(errno));
	snprintf(who->who, sizeof(who->who), "user %u", peer.uid);
	if (!peer.uid || peer.uid == getuid())
		who->role = ROLE_ADMINISTRATOR;
	else
		who->role = peer_groups_role(access, fd, peer.gid);
	return 0;
}

/* --- tokens and certificates ---------------------------------------------------------------------------- */

int access_new_token(char text[TOKEN_TEXT_SIZE], char hash[65], struct error *err)
{
	int r;

	_Static_assert(sizeof(TOKEN_PREFIX) + 2 * TOKEN_BYTES <= TOKEN_TEXT_SIZE, "a token fits");
	memcpy(text, TOKEN_PREFIX, sizeof(TOKEN_PREFIX));
	r = tls_random(text + strlen(TOKEN_PREFIX), TOKEN_BYTES, err);
	if (!r)
		tls_hash(text, strlen(text), hash);
	return r;
}

static int of_token(struct access *access, const char *header, struct principal *who, struct error *err)
{
	struct store_token token = {0};
	char hash[65];
	int r;

	if (strncasecmp(header, "Bearer ", 7))
		return error_set(err, EKEYREJECTED, "Authorization has to be \"Bearer TOKEN\"");
	header += 7;
	header += strspn(header, " ");
	tls_hash(header, strlen(header), hash);
	r = store_token_find(access->store, hash, &token, err);
	if (r == -ENOENT)
		return error_set(err, EKEYREJECTED, "the token is not known here: it was revoked, or is another host's");
	if (r)
		return r;
	/* A date is a matter of the host's clock, however that is set. */
	if (token.expires <= store_now())
		return error_set(err, EKEYEXPIRED, "the token \"%s\" has expired: an administrator makes a new one by bulkhead host "
						   "token create", token.name);
	who->role = token.role;
	snprintf(who->who, sizeof(who->who), "token %s", token.name);
	return 0;
}

static const json_t *grant_of(const struct access *access, const char *name)
{
	const json_t *grant;
	size_t i;

	json_array_foreach(access->certificates, i, grant)
		if (!strcmp(json_string_value(json_object_get(grant, "name")), name))
			return grant;
	return NULL;
}

static int of_certificate(const struct access *access, void *session, struct principal *who, struct error *err)
{
	json_t *names = tls_client_names(session, access->revoked, err), *name;
	const json_t *grant = NULL;
	size_t i;

	if (!names && err->code)
		return -err->code;
	if (!names)
		return error_set(err, ENOKEY, "this needs a token (Authorization: Bearer TOKEN) or a client certificate");
	json_array_foreach(names, i, name)
		if (!grant)
			grant = grant_of(access, json_string_value(name));
	if (grant) {
		who->role = role_of_word(json_string_value(json_object_get(grant, "role")));
		snprintf(who->who, sizeof(who->who), "certificate %s", json_string_value(json_object_get(grant, "name")));
	} else {
		snprintf(who->who, sizeof(who->who), "certificate %.200s",
			 json_array_size(names) ? json_string_value(json_array_get(names, 0)) : "with no name");
	}
	json_decref(names);
	return 0;
}

int access_of(struct access *access, struct http_request *request, struct principal *who, struct error *err)
{
	const char *header = http_header(request, "Authorization");
	void *session = http_tls_session(request);

	*who = (struct principal){.role = ROLE_NONE};
	if (header)
		return of_token(access, header, who, err);
	if (session)
		return of_certificate(access, session, who, err);
	return of_peer(access, http_socket(request), who, err);
}
