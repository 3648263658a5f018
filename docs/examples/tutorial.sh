# --8<-- [start:detector]
hetexp task=explain image=photo.jpg query=zebra 'methods=[ours_pos,gae,random]'
# --8<-- [end:detector]
# --8<-- [start:question]
hetexp model=lxmert task=explain image=photo.jpg 'question=is there a zebra?' target=difference 'answers=[yes,no]'
# --8<-- [end:question]
# --8<-- [start:data]
python tutorial_data.py mine
hetexp task=check data=coco data.root=mine data.images=images data.annotations=annotations.json
# --8<-- [end:data]
# --8<-- [start:evaluate]
hetexp --config-dir conf +experiment=mine
# --8<-- [end:evaluate]
# --8<-- [start:claim]
hetexp task=evidence claims=my_claims.yaml plugins=[my_method]
# --8<-- [end:claim]
