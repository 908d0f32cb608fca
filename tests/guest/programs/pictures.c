// SPDX-License-Identifier: GPL-2.0-or-later
/* pictures.c - makes pictures, packs and unpacks them in each format, and prints a sum of the bytes of each step. */
#include <stb/stb_ds.h>
#include <stb/stb_dxt.h>
#include <stb/stb_image.h>
#include <stb/stb_image_resize.h>
#include <stb/stb_image_write.h>
#include <stb/stb_perlin.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define SIDE 384

static uint64_t sum_of(const uint8_t *bytes, size_t size)
{
	uint64_t sum = 0xcbf29ce484222325;

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3;
	return sum;
}

static void keep(void *context, void *data, int size)
{
	uint8_t **file = context, *room = stbds_arraddnptr(*file, size);

	for (int i = 0; i < size; i++)
		room[i] = ((uint8_t *)data)[i];
}

static void paint(uint8_t *picture, int round)
{
	for (int y = 0; y < SIDE; y++)
		for (int x = 0; x < SIDE; x++)
			for (int c = 0; c < 3; c++) {
				float v = stb_perlin_turbulence_noise3((float)x / 60, (float)y / 40, (float)(round + c * 7), 2.1f, 0.5f, 5);

				*picture++ = (uint8_t)(v * 255 + (float)(x % 31 == y % 29 ? 60 : 0));
			}
}

static int unpack(const char *format, uint8_t *file)
{
	int width, height, channels;
	uint8_t *picture = stbi_load_from_memory(file, (int)stbds_arrlen(file), &width, &height, &channels, 3);

	if (!picture || width != SIDE || height != SIDE)
		return 1;
	printf("%s %td bytes %016llx unpacked %016llx\n", format, (ptrdiff_t)stbds_arrlen(file),
	    (unsigned long long)sum_of(file, stbds_arrlen(file)), (unsigned long long)sum_of(picture, SIDE * SIDE * 3));
	free(picture);
	stbds_arrfree(file);
	return 0;
}

static void shrink(const uint8_t *picture)
{
	static uint8_t small[123 * 77 * 4], block[64], packed[16];
	uint64_t sum = 0;

	stbir_resize_uint8_generic(picture, SIDE, SIDE, 0, small, 123, 77, 0, 3, STBIR_ALPHA_CHANNEL_NONE, 0, STBIR_EDGE_REFLECT,
	    STBIR_FILTER_MITCHELL, STBIR_COLORSPACE_SRGB, NULL);
	for (unsigned at = 0; at + 64 <= 123 * 77 * 3; at += 64) {
		for (unsigned i = 0; i < 64; i++)
			block[i] = small[at + i];
		stb_compress_dxt_block(packed, block, 1, STB_DXT_HIGHQUAL);
		sum = sum * 31 + sum_of(packed, sizeof(packed));
	}
	printf("small %016llx dxt %016llx\n", (unsigned long long)sum_of(small, 123 * 77 * 3), (unsigned long long)sum);
}

int main(void)
{
	static uint8_t picture[SIDE * SIDE * 3];

	for (int round = 0; round < 4; round++) {
		uint8_t *png = NULL, *jpeg = NULL, *tga = NULL;

		paint(picture, round);
		printf("picture %016llx\n", (unsigned long long)sum_of(picture, sizeof(picture)));
		stbi_write_png_to_func(keep, &png, SIDE, SIDE, 3, picture, SIDE * 3);
		stbi_write_jpg_to_func(keep, &jpeg, SIDE, SIDE, 3, picture, 85);
		stbi_write_tga_to_func(keep, &tga, SIDE, SIDE, 3, picture);
		if (unpack("png", png) || unpack("jpeg", jpeg) || unpack("tga", tga))
			return 1;
		shrink(picture);
	}
	return 0;
}
