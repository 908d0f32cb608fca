/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define FILE_MAX_BYTES (1u << 20)
#define YEARS          20
#define NAMES_MAX      64u

static int fail(struct error *err, int code, const char *what)
{
	return error_set(err, EIO, "%s: %s", what, gnutls_strerror(code));
}

/* --- files -------------------------------------------------------------------------------------------- */

static int read_text(char **text, const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX_BYTES)
		return error_set(err, EBADMSG, "%s is no PEM file", path);
	*text = calloc(1, (size_t)st.st_size + 1);
	if (!*text)
		return error_set(err, ENOMEM, "no memory to read %s", path);
	n = pread(fd, *text, (size_t)st.st_size, 0);
	return n < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
}

/* By rename, synced; for the daemon's user alone. */
static int write_text(const char *path, const gnutls_datum_t *text, struct error *err)
{
	_cleanup_free_ char *temporary = NULL;
	ssize_t n;
	int fd;

	if (asprintf(&temporary, "%s.new", path) < 0)
		return error_set(err, ENOMEM, "no memory");
	unlink(temporary);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, errno, "%s: %s", temporary, strerror(errno));
	n = write(fd, text->data, text->size);
	if (n != (ssize_t)text->size || fsync(fd) || rename(temporary, path))
		error_set(err, errno ? errno : ENOSPC, "%s: %s", path, strerror(errno));
	else
		err->code = 0;
	close(fd);
	return -err->code;
}

/* --- a certificate of our own --------------------------------------------------------------------------- */

static int new_key(gnutls_x509_privkey_t key, const char *path, struct error *err)
{
	gnutls_datum_t text = {0};
	int r = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);

	if (r >= 0)
		r = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &text);
	if (r < 0)
		return fail(err, r, "no key can be made for HTTPS");
	r = write_text(path, &text, err);
	gnutls_free(text.data);
	return r;
}

static void name_certificate(gnutls_x509_crt_t crt, const char *address)
{
	char host[256] = "localhost";
	uint8_t binary[16];

	gethostname(host, sizeof(host) - 1);
	gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, host, (unsigned)strnlen(host, 64));
	gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, host, (unsigned)strlen(host), GNUTLS_FSAN_APPEND);
	gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, "localhost", 9, GNUTLS_FSAN_APPEND);
	if (inet_pton(AF_INET, address, binary) == 1)
		gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, binary, 4, GNUTLS_FSAN_APPEND);
	else if (inet_pton(AF_INET6, address, binary) == 1)
		gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, binary, 16, GNUTLS_FSAN_APPEND);
}

/* Its time begins a day ago: clocks differ. What a client holds on to is the key. */
static int new_certificate(gnutls_x509_privkey_t key, const char *path, const char *address, struct error *err)
{
	gnutls_datum_t text = {0};
	gnutls_x509_crt_t crt;
	time_t now = time(NULL);
	uint8_t serial[16];
	int r = gnutls_x509_crt_init(&crt);

	if (r < 0)
		return fail(err, r, "no certificate can be made for HTTPS");
	gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
	serial[0] = (serial[0] & 0x7f) | 1;
	name_certificate(crt, address);
	gnutls_x509_crt_set_version(crt, 3);
	gnutls_x509_crt_set_serial(crt, serial, sizeof(serial));
	gnutls_x509_crt_set_activation_time(crt, now - 86400);
	gnutls_x509_crt_set_expiration_time(crt, now + YEARS * 365ll * 86400);
	gnutls_x509_crt_set_basic_constraints(crt, 0, -1);
	gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
	gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
	r = gnutls_x509_crt_set_key(crt, key);
	if (r >= 0)
		r = gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
	if (r >= 0)
		r = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text);
	gnutls_x509_crt_deinit(crt);
	if (r < 0)
		return fail(err, r, "no certificate can be made for HTTPS");
	r = write_text(path, &text, err);
	gnutls_free(text.data);
	return r;
}

/* A key that is there already gets a certificate: who has its fingerprint still finds it. */
static int make_own(const char *certificate, const char *key, const char *address, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	gnutls_x509_privkey_t private;
	gnutls_datum_t datum;
	int r;

	if (!access(certificate, F_OK) && !access(key, F_OK))
		return 0;
	r = gnutls_x509_privkey_init(&private);
	if (r < 0)
		return fail(err, r, "no key can be made for HTTPS");
	if (access(key, F_OK)) {
		r = new_key(private, key, err);
	} else {
		r = read_text(&text, key, err);
		datum = (gnutls_datum_t){(void *)text, r ? 0 : (unsigned)strlen(text)};
		if (!r && gnutls_x509_privkey_import(private, &datum, GNUTLS_X509_FMT_PEM) < 0)
			r = error_set(err, EBADMSG, "%s holds no private key", key);
	}
	if (!r)
		r = new_certificate(private, certificate, address, err);
	gnutls_x509_privkey_deinit(private);
	return r;
}

/* --- what is given to whom ------------------------------------------------------------------------------ */

static int hash_key(gnutls_x509_crt_t crt, char text[TLS_FINGERPRINT_SIZE], struct error *err)
{
	gnutls_datum_t der = {0}, base64 = {0};
	uint8_t hash[32];
	gnutls_pubkey_t key;
	int r = gnutls_pubkey_init(&key);

	if (r < 0)
		return fail(err, r, "the certificate's key");
	r = gnutls_pubkey_import_x509(key, crt, 0);
	if (r >= 0)
		r = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der);
	if (r >= 0)
		r = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, hash);
	if (r >= 0)
		r = gnutls_base64_encode2(&(gnutls_datum_t){hash, sizeof(hash)}, &base64);
	if (r >= 0)
		snprintf(text, TLS_FINGERPRINT_SIZE, "sha256//%.*s", (int)base64.size, (char *)base64.data);
	gnutls_free(der.data);
	gnutls_free(base64.data);
	gnutls_pubkey_deinit(key);
	return r < 0 ? fail(err, r, "the certificate's key") : 0;
}

static int take_fingerprint(struct tls_files *files, const char *path, struct error *err)
{
	gnutls_datum_t text = {(void *)files->certificate, (unsigned)strlen(files->certificate)};
	gnutls_x509_crt_t crt;
	int r = gnutls_x509_crt_init(&crt);

	if (r < 0)
		return fail(err, r, path);
	if (gnutls_x509_crt_import(crt, &text, GNUTLS_X509_FMT_PEM) < 0)
		r = error_set(err, EBADMSG, "%s holds no certificate", path);
	else
		r = hash_key(crt, files->fingerprint, err);
	gnutls_x509_crt_deinit(crt);
	return r;
}

/* libmicrohttpd would say no more than that it does not start. */
static int check_files(const struct tls_files *files, struct error *err)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_datum_t certificate = {(void *)files->certificate, (unsigned)strlen(files->certificate)};
	gnutls_datum_t key = {(void *)files->key, (unsigned)strlen(files->key)}, authority = {0};
	int r = gnutls_certificate_allocate_credentials(&credentials);

	if (r < 0)
		return fail(err, r, "HTTPS");
	r = gnutls_certificate_set_x509_key_mem(credentials, &certificate, &key, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		r = error_set(err, EBADMSG, "https.certificate and https.key do not go together: %s", gnutls_strerror(r));
	if (!r && files->authority) {
		authority = (gnutls_datum_t){(void *)files->authority, (unsigned)strlen(files->authority)};
		if (gnutls_certificate_set_x509_trust_mem(credentials, &authority, GNUTLS_X509_FMT_PEM) < 1)
			r = error_set(err, EBADMSG, "https.client_authority holds no certificate");
	}
	gnutls_certificate_free_credentials(credentials);
	return r;
}

int tls_files_load(struct tls_files *files, const json_t *https, const char *directory, const char *address,
    struct error *err)
{
	const char *certificate = json_string_value(json_object_get(https, "certificate"));
	const char *key = json_string_value(json_object_get(https, "key"));
	const char *authority = json_string_value(json_object_get(https, "client_authority"));
	_cleanup_free_ char *own_certificate = NULL, *own_key = NULL;
	int r = 0;

	*files = (struct tls_files){0};
	if (!certificate) {
		if (asprintf(&own_certificate, "%s/tls-certificate.pem", directory) < 0 ||
		    asprintf(&own_key, "%s/tls-key.pem", directory) < 0)
			return error_set(err, ENOMEM, "no memory");
		certificate = own_certificate;
		key = own_key;
		r = make_own(certificate, key, address, err);
	}
	if (!r)
		r = read_text(&files->certificate, certificate, err);
	if (!r)
		r = read_text(&files->key, key, err);
	if (!r && authority)
		r = read_text(&files->authority, authority, err);
	if (!r)
		r = take_fingerprint(files, certificate, err);
	if (!r)
		r = check_files(files, err);
	if (r)
		tls_files_free(files);
	return r;
}

void tls_files_free(struct tls_files *files)
{
	if (files->key)
		gnutls_memset(files->key, 0, strlen(files->key));
	free(files->certificate);
	free(files->key);
	free(files->authority);
	*files = (struct tls_files){0};
}

/* --- clients -------------------------------------------------------------------------------------------- */

struct tls_revoked {
	gnutls_x509_crl_t *lists;
	unsigned count;
};

/* Whether each list is of one of the authorities. */
static int check_lists(const struct tls_revoked *revoked, const char *path, const gnutls_datum_t *text, const char *authority, struct error *err)
{
	const unsigned wrong = GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA | GNUTLS_CERT_SIGNATURE_FAILURE | GNUTLS_CERT_INSECURE_ALGORITHM;
	gnutls_x509_crt_t *authorities = NULL;
	unsigned count = 0, status;
	int r = 0;

	if (gnutls_x509_crt_list_import2(&authorities, &count, text, GNUTLS_X509_FMT_PEM, 0) < 0)
		return error_set(err, EBADMSG, "%s holds no certificate", authority);
	for (unsigned i = 0; i < revoked->count && !r; i++)
		if (gnutls_x509_crl_verify(revoked->lists[i], authorities, (int)count, 0, &status) < 0 || status & wrong)
			r = error_set(err, EBADMSG, "%s: a list in it is not signed by %s", path, authority);
	for (unsigned i = 0; i < count; i++)
		gnutls_x509_crt_deinit(authorities[i]);
	gnutls_free(authorities);
	return r;
}

int tls_revoked_load(struct tls_revoked **out, const char *path, const char *authority, struct error *err)
{
	_cleanup_free_ char *lists = NULL, *authorities = NULL;
	struct tls_revoked *revoked = calloc(1, sizeof(*revoked));
	gnutls_datum_t text;
	int r = revoked ? read_text(&lists, path, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = read_text(&authorities, authority, err);
	if (!r) {
		text = (gnutls_datum_t){(void *)lists, (unsigned)strlen(lists)};
		if (gnutls_x509_crl_list_import2(&revoked->lists, &revoked->count, &text, GNUTLS_X509_FMT_PEM, 0) < 0)
			r = error_set(err, EBADMSG, "%s holds no revocation list", path);
	}
	if (!r) {
		text = (gnutls_datum_t){(void *)authorities, (unsigned)strlen(authorities)};
		r = check_lists(revoked, path, &text, authority, err);
	}
	if (r)
		tls_revoked_free(revoked);
	else
		*out = revoked;
	return r;
}

void tls_revoked_free(struct tls_revoked *revoked)
{
	if (!revoked)
		return;
	for (unsigned i = 0; i < revoked->count; i++)
		gnutls_x509_crl_deinit(revoked->lists[i]);
	gnutls_free(revoked->lists);
	free(revoked);
}

/* Names with a NUL in them, or that are no UTF-8, are left out: json_stringn() refuses the one, we the other. */
static void add_name(json_t *names, const char *name, size_t size)
{
	json_t *text = memchr(name, '\0', size) ? NULL : json_stringn(name, size);

	if (text)
		json_array_append_new(names, text);
}

static void add_names(json_t *names, gnutls_x509_crt_t crt)
{
	char name[1024];
	size_t size = sizeof(name);
	int r = gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &size);

	if (r >= 0)
		add_name(names, name, size);
	for (unsigned i = 0; i < NAMES_MAX; i++) {
		size = sizeof(name);
		r = gnutls_x509_crt_get_subject_alt_name(crt, i, name, &size, NULL);
		if (r == GNUTLS_SAN_DNSNAME || r == GNUTLS_SAN_RFC822NAME || r == GNUTLS_SAN_URI)
			add_name(names, name, size);
		if (r == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
			break;
	}
}

static bool is_revoked(const struct tls_revoked *revoked, const gnutls_datum_t *chain, unsigned count)
{
	bool is = false;

	for (unsigned i = 0; revoked && i < count && !is; i++) {
		gnutls_x509_crt_t crt;

		if (gnutls_x509_crt_init(&crt) < 0)
			return true;
		/* Of what cannot be told it is not said that it holds. */
		is = gnutls_x509_crt_import(crt, &chain[i], GNUTLS_X509_FMT_DER) < 0 ||
		     gnutls_x509_crt_check_revocation(crt, revoked->lists, revoked->count) != 0;
		gnutls_x509_crt_deinit(crt);
	}
	return is;
}

json_t *tls_client_names(void *session, const struct tls_revoked *revoked, struct error *err)
{
	gnutls_typed_vdata_st purpose = {GNUTLS_DT_KEY_PURPOSE_OID, (void *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT, 0};
	const gnutls_datum_t *chain;
	gnutls_datum_t why = {0};
	gnutls_x509_crt_t crt;
	unsigned count = 0, status = 0;
	json_t *names = NULL;

	err->code = 0;
	chain = gnutls_certificate_get_peers(session, &count);
	if (!chain || !count)
		return NULL;
	if (gnutls_certificate_verify_peers(session, &purpose, 1, &status) < 0 || status) {
		gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0);
		error_set(err, EKEYREJECTED, "your certificate is refused: %s", why.data ? (char *)why.data : "it cannot be checked");
		gnutls_free(why.data);
		return NULL;
	}
	if (is_revoked(revoked, chain, count)) {
		error_set(err, EKEYREJECTED, "your certificate is refused: it was revoked by who had signed it");
		return NULL;
	}
	if (gnutls_x509_crt_init(&crt) >= 0) {
		if (gnutls_x509_crt_import(crt, &chain[0], GNUTLS_X509_FMT_DER) >= 0)
			add_names(names = json_array(), crt);
		gnutls_x509_crt_deinit(crt);
	}
	if (!names)
		error_set(err, EKEYREJECTED, "your certificate cannot be read");
	return names;
}

/* --- numbers -------------------------------------------------------------------------------------------- */

static void hex(char *text, const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

void tls_hash(const void *bytes, size_t size, char text[65])
{
	uint8_t hash[32] = {0};

	gnutls_hash_fast(GNUTLS_DIG_SHA256, bytes, size, hash);
	hex(text, hash, sizeof(hash));
}

int tls_random(char *text, size_t count, struct error *err)
{
	uint8_t bytes[64];
	int r = count <= sizeof(bytes) ? gnutls_rnd(GNUTLS_RND_KEY, bytes, count) : GNUTLS_E_INVALID_REQUEST;

	if (r < 0)
		return fail(err, r, "no random number");
	hex(text, bytes, count);
	gnutls_memset(bytes, 0, sizeof(bytes));
	return 0;
}
